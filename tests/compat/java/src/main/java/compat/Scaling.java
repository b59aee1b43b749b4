package compat;

import io.pravega.client.control.impl.Controller;
import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.Stream;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** Splits and merges while one writes and two read; the group hears of new numbers of segments. */
final class Scaling implements Program {
    private static final int KEYS = 20;
    private static final int EACH = 300;

    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("elastic", 1);
        EventStreamWriter<String> writer = cluster.writer(stream);
        ReaderGroup group = cluster.group("group", stream);
        Set<Integer> heard = new ConcurrentSkipListSet<>();
        group.getSegmentNotifier(cluster.executor())
                .registerListener(news -> heard.add(news.getNumOfSegments()));
        ExecutorService threads = Executors.newFixedThreadPool(3);
        cluster.open((AutoCloseable) threads::shutdownNow);
        List<String> seen = new ArrayList<>();
        List<Future<?>> work = new ArrayList<>();
        for (String name : List.of("one", "two")) {
            EventStreamReader<String> reader = cluster.reader(name, group);
            work.add(threads.submit(() -> {
                readAll(reader, seen);
                return null;
            }));
        }
        work.add(threads.submit(() -> {
            for (int n = 0; n < EACH; n++) {
                for (int key = 0; key < KEYS; key++) {
                    writer.writeEvent("key" + key, key + ":" + n);
                }
                writer.flush();
                Thread.sleep(10);
            }
            return null;
        }));

        Controller controller = cluster.controller();
        cluster.scale(controller, stream, List.of(0L), Map.of(0.0, 0.5, 0.5, 1.0));
        long left = id(1, 1);
        long right = id(1, 2);
        cluster.scale(controller, stream, List.of(left), Map.of(0.0, 0.25, 0.25, 0.5));
        cluster.scale(controller, stream, List.of(right, id(2, 4)), Map.of(0.25, 1.0));
        Check.equal(2, controller.getCurrentSegments(cluster.scope, "elastic").get()
                .getSegments().size(), "segments at the end");
        for (Future<?> each : work) {
            each.get();
        }
        Check.equal(KEYS * EACH, seen.size(), "all events");
        Events.checkOrder(seen);
        Check.eventually(Cluster.PATIENCE, "the group heard of two segments: " + heard,
                () -> heard.contains(2));
    }

    private static void readAll(EventStreamReader<String> reader, List<String> seen) {
        long deadline = System.nanoTime() + 2 * Cluster.PATIENCE.toNanos();
        while (true) {
            EventRead<String> next = reader.readNextEvent(100);
            synchronized (seen) {
                if (next.getEvent() != null) {
                    seen.add(next.getEvent());
                }
                if (seen.size() >= KEYS * EACH) {
                    return;
                }
                Check.that(System.nanoTime() < deadline,
                        "only " + seen.size() + " of " + KEYS * EACH + " events came");
            }
        }
    }

    /** The epoch in which a segment was made is in the upper half of its id. */
    private static long id(int epoch, int number) {
        return ((long) epoch << 32) | number;
    }
}
