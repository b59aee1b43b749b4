package compat;

import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.TimeWindow;
import java.time.Duration;

/** Writers note their times, and a reader is told the window of time in which it reads. */
final class Watermarks implements Program {
    private static final Duration LIMIT = Duration.ofSeconds(60);
    private static final long AGGREGATION_TIMEOUT_MS = 60_000;

    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.wholeStream("timed", StreamConfiguration.builder()
                .scalingPolicy(ScalingPolicy.fixed(2))
                .timestampAggregationTimeout(AGGREGATION_TIMEOUT_MS).build());
        EventStreamWriter<String> one = cluster.writer(stream);
        EventStreamWriter<String> two = cluster.writer(stream);
        EventStreamReader<String> reader =
                cluster.reader("reader", cluster.group("group", stream));
        Check.equal(null, reader.getCurrentTimeWindow(stream).getLowerTimeBound(), "no window yet");

        long[] time = {1000};
        long[] highest = {Long.MIN_VALUE};
        Check.eventually(LIMIT, "the window of the reader moves twice", () -> {
            time[0] += 100;
            write(one, time[0]);
            write(two, time[0] + 10);
            drain(reader);
            TimeWindow window = reader.getCurrentTimeWindow(stream);
            Long lower = window.getLowerTimeBound();
            if (lower == null) {
                return false;
            }
            Check.that(lower >= highest[0], "the lower bound never goes back");
            Check.that(lower <= time[0], "the lower bound is a time that was noted");
            if (window.getUpperTimeBound() != null) {
                Check.that(window.getUpperTimeBound() >= lower, "the bounds are in order");
            }
            if (highest[0] == Long.MIN_VALUE) {
                highest[0] = lower;
            }
            return lower > highest[0];
        });
    }

    private static void write(EventStreamWriter<String> writer, long time) {
        for (int key = 0; key < 4; key++) {
            writer.writeEvent("key" + key, "at " + time);
        }
        writer.flush();
        writer.noteTime(time);
    }

    private static void drain(EventStreamReader<String> reader) {
        EventRead<String> next = reader.readNextEvent(50);
        while (next.getEvent() != null || next.isCheckpoint()) {
            next = reader.readNextEvent(50);
        }
    }
}
