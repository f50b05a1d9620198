import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.index.mapper.MapperExtrasPlugin;
import org.elasticsearch.join.ParentJoinPlugin;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.reindex.ReindexPlugin;
import org.elasticsearch.script.mustache.MustachePlugin;
import org.elasticsearch.transport.Netty4Plugin;

/** One Elasticsearch node from Elastic's own artifacts, on loopback; for development only. */
public class ElasticsearchNode extends Node {
    private static final List<Class<? extends Plugin>> PLUGINS =
            List.of(Netty4Plugin.class, ReindexPlugin.class, MapperExtrasPlugin.class,
                    ParentJoinPlugin.class, MustachePlugin.class);

    private ElasticsearchNode(Settings settings, Path config) {
        super(InternalSettingsPreparer.prepareEnvironment(
                settings, Map.of(), config, () -> "log1"), PLUGINS, false);
    }

    public static void main(String[] args) throws Exception {
        Settings settings = Settings.builder()
                .put("path.home", System.getProperty("es.path.home"))
                .put("http.port", System.getProperty("es.http.port"))
                .put("transport.port", System.getProperty("es.transport.port"))
                .put("network.host", "127.0.0.1")
                .put("discovery.type", "single-node")
                .put("cluster.name", "nozie")
                .build();
        Path config = Path.of(settings.get("path.home"), "config");
        Node node = new ElasticsearchNode(settings, config);
        CountDownLatch stopped = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (java.io.IOException e) {
                throw new java.io.UncheckedIOException(e);
            } finally {
                stopped.countDown();
            }
        }));
        node.start();
        stopped.await();
    }
}
