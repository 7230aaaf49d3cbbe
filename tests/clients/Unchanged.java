import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/**
 * Calls an https origin with Java's own HttpClient, knowing nothing of any gateway: the environment says it all.
 *
 * <p>usage: java Unchanged.java BASE COUNT
 */
public final class Unchanged {
    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[1]);
        for (HttpClient.Version version : HttpClient.Version.values()) {
            HttpClient caller = HttpClient.newBuilder().version(version).build();
            List<CompletableFuture<HttpResponse<String>>> answers = new ArrayList<>();
            for (int n = 0; n < count; n++) {
                HttpRequest get = HttpRequest.newBuilder(URI.create(args[0] + "/java/" + n)).build();
                answers.add(caller.sendAsync(get, HttpResponse.BodyHandlers.ofString()));
            }
            for (int n = 0; n < count; n++) {
                check(answers.get(n).get(), version, "/java/" + n);
            }
            for (String body : List.of("x", "y".repeat(200_000))) {
                HttpRequest.BodyPublisher content = HttpRequest.BodyPublishers.ofString(body);
                HttpRequest post = HttpRequest.newBuilder(URI.create(args[0] + "/post")).POST(content).build();
                check(caller.send(post, HttpResponse.BodyHandlers.ofString()), version, body);
            }
        }
        System.out.println("well");
        System.exit(0);
    }

    private static void check(HttpResponse<String> answer, HttpClient.Version version, String wanted) {
        if (answer.statusCode() != 200 || !answer.body().equals(wanted) || answer.version() != version) {
            System.err.println(answer + " " + answer.version() + ": " + answer.body());
            System.exit(1);
        }
    }
}
