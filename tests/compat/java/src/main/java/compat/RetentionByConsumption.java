package compat;

import io.pravega.client.control.impl.Controller;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.ReaderGroupConfig.StreamDataRetention;
import io.pravega.client.stream.RetentionPolicy;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.StreamCut;
import java.time.Duration;
import java.util.List;
import java.util.Map;

/**
 * Retention by what subscribed groups have read: one says so by hand, the other by its checkpoints.
 * The cluster's retention period has to be a few seconds.
 */
final class RetentionByConsumption implements Program {
    private static final Duration LIMIT = Duration.ofSeconds(60);

    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("consumed", StreamConfiguration.builder()
                .scalingPolicy(ScalingPolicy.fixed(1))
                .retentionPolicy(RetentionPolicy.bySizeBytes(1)).build());
        ReaderGroup manual = cluster.group("manual", Cluster.quickGroup().stream(stream)
                .retentionType(StreamDataRetention.MANUAL_RELEASE_AT_USER_STREAMCUT).build());
        ReaderGroup automatic = cluster.group("automatic", Cluster.quickGroup().stream(stream)
                .retentionType(StreamDataRetention.AUTOMATIC_RELEASE_AT_LAST_CHECKPOINT).build());
        Controller controller = cluster.controller();
        Check.equal(List.of(cluster.scope + "/automatic", cluster.scope + "/manual"),
                controller.listSubscribers(cluster.scope, "consumed").get().stream().sorted()
                        .toList(), "subscribers of the stream");
        StreamCut start = cluster.head(stream);
        manual.updateRetentionStreamCut(Map.of(stream, start));

        EventStreamWriter<String> writer = cluster.writer(stream);
        for (int number = 0; number < 20; number++) {
            RetentionBySize.write(writer, number);
        }
        EventStreamReader<String> reader = cluster.reader("reader", automatic);
        Cluster.read(reader, 20);
        StreamCut allRead = cluster.tail(stream);
        Check.that(Cluster.readUntilQuiet(reader, Duration.ofSeconds(8)).isEmpty(), "all is read");
        Check.equal(start, cluster.head(stream), "the slower subscriber holds the stream");

        manual.updateRetentionStreamCut(Map.of(stream, allRead));
        RetentionBySize.write(writer, 20);
        Check.eventually(LIMIT, "the head moves up to what all have read", () -> {
            reader.readNextEvent(100);
            return cluster.head(stream).equals(allRead);
        });
    }
}
