import java.io.FileInputStream;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * Calls through the gateway with Java's own HttpClient, as a program of a fleet would.
 *
 * <p>usage: java Caller.java PROXY_HOST PROXY_PORT PLAIN SECURE CA COUNT
 */
public final class Caller {
    private static HttpClient caller;

    public static void main(String[] args) throws Exception {
        String plain = args[2];
        String secure = args[3];
        HttpClient.Builder builder = HttpClient.newBuilder();
        builder.proxy(ProxySelector.of(new InetSocketAddress(args[0], Integer.parseInt(args[1]))));
        if (!secure.equals("-")) {
            builder.sslContext(trusting(args[4]));
        }
        caller = builder.build();
        for (String base : secure.equals("-") ? List.of(plain) : List.of(plain, secure)) {
            List<CompletableFuture<HttpResponse<String>>> answers = new ArrayList<>();
            int count = Integer.parseInt(args[5]);
            for (int n = 0; n < count; n++) {
                HttpRequest get = HttpRequest.newBuilder(URI.create(base + "/java/" + n + "?q=%20")).build();
                answers.add(caller.sendAsync(get, HttpResponse.BodyHandlers.ofString()));
            }
            for (int n = 0; n < count; n++) {
                check(answers.get(n).get(), "/java/" + n + "?q=%20");
            }
            if (!secure.equals("-")) {
                for (String body : List.of("x", "y".repeat(100_000))) {
                    HttpRequest.BodyPublisher content = HttpRequest.BodyPublishers.ofString(body);
                    HttpRequest post = HttpRequest.newBuilder(URI.create(base + "/post")).POST(content).build();
                    check(caller.send(post, HttpResponse.BodyHandlers.ofString()), body);
                }
            }
        }
        System.out.println("well");
        System.exit(0);
    }

    private static void check(HttpResponse<String> answer, String wanted) {
        if (answer.statusCode() != 200 || !answer.body().equals(wanted)) {
            System.err.println(answer + ": " + answer.body());
            System.exit(1);
        }
    }

    private static SSLContext trusting(String path) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (InputStream in = new FileInputStream(path)) {
            store.setCertificateEntry("tests", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }
}
