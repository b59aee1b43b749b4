package compat;

import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.RetentionPolicy;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.StreamCut;
import java.time.Duration;
import java.util.List;

/** Retention by size. The cluster's retention period has to be a few seconds. */
final class RetentionBySize implements Program {
    private static final Duration LIMIT = Duration.ofSeconds(60);
    private static final int EVENT_BYTES = 1000;
    private static final int KEPT_BYTES = 20_000;

    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("sized", StreamConfiguration.builder()
                .scalingPolicy(ScalingPolicy.fixed(1))
                .retentionPolicy(RetentionPolicy.bySizeBytes(KEPT_BYTES)).build());
        EventStreamWriter<String> writer = cluster.writer(stream);
        StreamCut start = cluster.head(stream);
        int[] written = {0};
        Check.eventually(LIMIT, "the head of the stream moves", () -> {
            write(writer, written[0]++);
            return !cluster.head(stream).equals(start);
        });
        EventStreamReader<String> reader =
                cluster.reader("reader", cluster.group("group", stream));
        List<String> left = Cluster.readUntilQuiet(reader, Duration.ofSeconds(2));
        Check.that(left.size() < written[0], "something was dropped");
        Check.that(left.size() * EVENT_BYTES >= KEPT_BYTES,
                "never less than the policy says: " + left.size() + " events left");
        for (int index = 0; index < left.size(); index++) {
            int number = written[0] - left.size() + index;
            Check.that(left.get(index).startsWith(number + ":"), "the newest events stay, in order");
        }
    }

    static void write(EventStreamWriter<String> writer, int number) {
        String head = number + ":";
        writer.writeEvent("key", head + "x".repeat(EVENT_BYTES - head.length()));
        writer.flush();
    }
}
