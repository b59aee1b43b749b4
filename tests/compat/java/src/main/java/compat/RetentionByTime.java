package compat;

import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.RetentionPolicy;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.StreamCut;
import java.time.Duration;
import java.util.List;

/** Retention by time. The cluster's retention period has to be a few seconds. */
final class RetentionByTime implements Program {
    private static final Duration LIMIT = Duration.ofSeconds(60);
    private static final Duration KEPT = Duration.ofSeconds(5);

    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("timed", StreamConfiguration.builder()
                .scalingPolicy(ScalingPolicy.fixed(2))
                .retentionPolicy(RetentionPolicy.byTime(KEPT)).build());
        EventStreamWriter<String> writer = cluster.writer(stream);
        for (int number = 0; number < 100; number++) {
            writer.writeEvent("key" + number, "old " + number);
        }
        writer.flush();
        long written = System.nanoTime();
        StreamCut tail = cluster.tail(stream);
        Check.eventually(LIMIT, "the head of the stream reaches what was its tail",
                () -> cluster.head(stream).equals(tail));
        Check.that(System.nanoTime() - written >= KEPT.toNanos() - Duration.ofSeconds(1).toNanos(),
                "not before its time");
        writer.writeEvent("key", "new").get();
        Check.equal(List.of("new"),
                Cluster.read(cluster.reader("reader", cluster.group("group", stream)), 1),
                "a new group does not see the old events");
    }
}
