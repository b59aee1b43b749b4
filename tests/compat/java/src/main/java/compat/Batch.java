package compat;

import io.pravega.client.BatchClientFactory;
import io.pravega.client.batch.SegmentIterator;
import io.pravega.client.batch.SegmentRange;
import io.pravega.client.batch.StreamSegmentsIterator;
import io.pravega.client.control.impl.Controller;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import io.pravega.client.stream.TruncatedDataException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Reading whole segments side by side, across a scaling and after a truncation. */
final class Batch implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("batch", 2);
        EventStreamWriter<String> writer = cluster.writer(stream);
        BatchClientFactory batch = cluster.batch();
        StreamCut start = cluster.tail(stream);
        write(writer, 0, 100);
        StreamCut middle = cluster.tail(stream);
        Controller controller = cluster.controller();
        cluster.scale(controller, stream, List.of(0L), Map.of(0.0, 0.25, 0.25, 0.5));
        write(writer, 100, 200);
        StreamCut end = cluster.tail(stream);
        write(writer, 200, 300);

        Check.equal(numbers(0, 300), events(batch, stream, StreamCut.UNBOUNDED, StreamCut.UNBOUNDED),
                "all of the stream");
        Check.equal(numbers(0, 100), events(batch, stream, start, middle), "before the scaling");
        Check.equal(numbers(100, 200), events(batch, stream, middle, end), "across the scaling");
        Check.equal(numbers(100, 300), events(batch, stream, middle, StreamCut.UNBOUNDED),
                "from a cut to the end");
        StreamSegmentsIterator all =
                batch.getSegments(stream, StreamCut.UNBOUNDED, StreamCut.UNBOUNDED);
        List<SegmentRange> ranges = new ArrayList<>();
        all.getIterator().forEachRemaining(ranges::add);
        Check.equal(4, ranges.size(), "segments of the whole stream");
        Check.equal(300, count(batch, stream, all.getStartStreamCut(), all.getEndStreamCut()),
                "events between the cuts that the iterator names");

        SegmentRange first = ranges.stream().filter(range -> range.getSegmentId() == 1).findFirst()
                .orElseThrow();
        cluster.streams.truncateStream(cluster.scope, "batch", middle);
        Check.equal(numbers(100, 300), events(batch, stream, StreamCut.UNBOUNDED, StreamCut.UNBOUNDED),
                "all that remains");
        Check.fails(TruncatedDataException.class, "reading a range that is gone", () -> {
            try (SegmentIterator<String> iterator = batch.readSegment(first, Cluster.TEXT)) {
                return iterator.next();
            }
        });
    }

    private static void write(EventStreamWriter<String> writer, int from, int to) {
        for (int number = from; number < to; number++) {
            writer.writeEvent(Integer.toString(number), Integer.toString(number));
        }
        writer.flush();
    }

    private static int count(BatchClientFactory batch, Stream stream, StreamCut from, StreamCut to) {
        return events(batch, stream, from, to).size();
    }

    private static Set<Integer> events(
            BatchClientFactory batch, Stream stream, StreamCut from, StreamCut to) {
        Set<Integer> events = new HashSet<>();
        batch.getSegments(stream, from, to).getIterator().forEachRemaining(range -> {
            try (SegmentIterator<String> iterator = batch.readSegment(range, Cluster.TEXT)) {
                iterator.forEachRemaining(event ->
                        Check.that(events.add(Integer.valueOf(event)), event + " only once"));
            }
        });
        return events;
    }

    private static Set<Integer> numbers(int from, int to) {
        Set<Integer> numbers = new HashSet<>();
        for (int number = from; number < to; number++) {
            numbers.add(number);
        }
        return numbers;
    }
}
