<?php
// Calls an origin with PHP's Guzzle, knowing nothing of any gateway.
//
// usage: php unchanged_guzzle.php BASE COUNT

require '/usr/share/php/GuzzleHttp/autoload.php';

[, $base, $count] = $argv;
$client = new GuzzleHttp\Client();
for ($n = 0; $n < $count; $n++) {
    $got = (string) $client->get("$base/guzzle/$n")->getBody();
    if ($got !== "/guzzle/$n") {
        fwrite(STDERR, $got);
        exit(1);
    }
}
$promises = array_map(fn ($n) => $client->getAsync("$base/guzzle/$n"), range(1, $count));
foreach (GuzzleHttp\Promise\Utils::unwrap($promises) as $answer) {
    if (!str_starts_with($answer->getBody(), '/guzzle/')) {
        fwrite(STDERR, $answer->getBody());
        exit(1);
    }
}
// By PHP's streams, which send a proxy no full URL for http.
$body = $client->get("$base/guzzle", ['stream' => str_starts_with($base, 'https:')])->getBody();
// A stream ends with its connection, and an origin may keep that open.
$got = $body->read(strlen('/guzzle'));
if ($got !== '/guzzle') {
    fwrite(STDERR, $got);
    exit(1);
}
echo "well\n";
