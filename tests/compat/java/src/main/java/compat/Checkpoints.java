package compat;

import static compat.Cluster.within;

import io.pravega.client.stream.Checkpoint;
import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.ReinitializationRequiredException;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

/** Checkpoints that readers see and that a group goes back to; stream cuts as bounds. */
final class Checkpoints implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("numbers", 1);
        EventStreamWriter<String> writer = cluster.writer(stream);
        ReaderGroup group = cluster.group("group", ReaderGroupConfig.builder()
                .stream(stream).disableAutomaticCheckpoints().groupRefreshTimeMillis(500).build());
        EventStreamReader<String> reader = cluster.reader("first", group);
        write(writer, 0, 10);
        Check.equal(numbers(0, 4), Cluster.read(reader, 4), "before the checkpoint");

        CompletableFuture<Checkpoint> asked = group.initiateCheckpoint("mine", cluster.executor());
        EventRead<String> seen = reader.readNextEvent(1000);
        long deadline = System.nanoTime() + Cluster.PATIENCE.toNanos();
        int read = 4;
        while (!seen.isCheckpoint()) {
            read += seen.getEvent() == null ? 0 : 1;
            Check.that(System.nanoTime() < deadline, "the reader sees the checkpoint");
            seen = reader.readNextEvent(1000);
        }
        Check.equal("mine", seen.getCheckpointName(), "name of the checkpoint");
        reader.readNextEvent(100);
        Checkpoint checkpoint = within(asked);
        Check.equal("mine", checkpoint.getName(), "name of the checkpoint");

        CompletableFuture<Map<Stream, StreamCut>> cuts = group.generateStreamCuts(cluster.executor());
        Check.eventually(Cluster.PATIENCE, "cuts are made while the reader reads", () -> {
            Check.that(!reader.readNextEvent(100).isCheckpoint(), "cuts are not shown to readers");
            return cuts.isDone();
        });
        Check.equal(Map.of(stream, within(cuts).get(stream)).keySet(), group.getStreamCuts().keySet(),
                "streams of the last cuts");

        group.resetReaderGroup(ReaderGroupConfig.builder().startFromCheckpoint(checkpoint)
                .disableAutomaticCheckpoints().groupRefreshTimeMillis(500).build());
        Check.fails(ReinitializationRequiredException.class, "a reader of before the reset", () -> {
            for (int attempt = 0; attempt < 100; attempt++) {
                reader.readNextEvent(200);
            }
            return null;
        });
        reader.close();
        EventStreamReader<String> again = cluster.reader("again", group);
        Check.equal(numbers(read, 10), Cluster.read(again, 10 - read), "from the checkpoint on");

        bounds(cluster, stream, writer);
    }

    private static void bounds(Cluster cluster, Stream stream, EventStreamWriter<String> writer)
            throws Exception {
        StreamCut from = cluster.tail(stream);
        write(writer, 10, 15);
        StreamCut to = StreamCut.from(cluster.tail(stream).asText());
        write(writer, 15, 20);
        ReaderGroup between = cluster.group("between", Cluster.quickGroup()
                .stream(stream, from, to).build());
        EventStreamReader<String> reader = cluster.reader("between", between);
        Check.equal(numbers(10, 15), Cluster.read(reader, 5), "between two cuts");
        Check.that(Cluster.readUntilQuiet(reader, Duration.ofSeconds(1)).isEmpty(),
                "nothing beyond the end cut");
    }

    private static void write(EventStreamWriter<String> writer, int from, int to) {
        numbers(from, to).forEach(writer::writeEvent);
        writer.flush();
    }

    private static List<String> numbers(int from, int to) {
        return java.util.stream.IntStream.range(from, to).mapToObj(Integer::toString).toList();
    }
}
