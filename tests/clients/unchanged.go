// Calls an origin with a transport that names no proxy, as many programs do that set a timeout of their own.
//
// usage: unchanged BASE COUNT
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	base := os.Args[1]
	count, _ := strconv.Atoi(os.Args[2])
	roots, err := x509.SystemCertPool()
	if err != nil {
		fail(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	for n := 0; n < count; n++ {
		path := fmt.Sprintf("/go/%d", n)
		answer, err := client.Get(base + path)
		if err != nil {
			fail(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil || string(body) != path {
			fail(answer.Status, string(body), err)
		}
		answer.Body.Close()
	}
	fmt.Println("well")
}

func fail(what ...any) {
	fmt.Fprintln(os.Stderr, what...)
	os.Exit(1)
}
