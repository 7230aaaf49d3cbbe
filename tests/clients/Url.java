import java.io.InputStream;
import java.net.URL;
import java.nio.charset.StandardCharsets;

/**
 * Reads URLs as a program does that says nothing of a proxy, and prints what they hold.
 *
 * <p>usage: java Url.java URL...
 */
public final class Url {
    public static void main(String[] args) throws Exception {
        for (String url : args) {
            try (InputStream in = new URL(url).openStream()) {
                System.out.println(new String(in.readAllBytes(), StandardCharsets.UTF_8));
            }
        }
    }
}
