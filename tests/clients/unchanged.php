<?php
// Calls an origin with PHP's curl, which Guzzle and Composer use, knowing nothing of any gateway.
//
// usage: php unchanged.php BASE COUNT

[, $base, $count] = $argv;
for ($n = 0; $n < $count; $n++) {
    $curl = curl_init("$base/php/$n");
    curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
    $got = curl_exec($curl);
    if ($got !== "/php/$n") {
        fwrite(STDERR, curl_error($curl) . $got);
        exit(1);
    }
}
echo "well\n";
