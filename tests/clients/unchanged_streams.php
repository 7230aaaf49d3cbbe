<?php
// Calls an origin with PHP's streams, which read no variable of a proxy.
//
// usage: php unchanged_streams.php BASE COUNT

[, $base, $count] = $argv;
for ($n = 0; $n < $count; $n++) {
    $got = file_get_contents("$base/php/$n");
    if ($got !== "/php/$n") {
        fwrite(STDERR, "got $got\n");
        exit(1);
    }
}
echo "well\n";
