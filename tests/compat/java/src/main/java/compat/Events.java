package compat;

import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.Stream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Writing with and without keys; two readers of a group; what one leaves the other takes. */
final class Events implements Program {
    private static final int KEYS = 10;
    private static final int EACH = 100;

    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("events", 4);
        EventStreamWriter<String> writer = cluster.writer(stream);
        ReaderGroup group = cluster.group("group", stream);
        EventStreamReader<String> one = cluster.reader("one", group);
        EventStreamReader<String> two = cluster.reader("two", group);

        for (int n = 0; n < EACH; n++) {
            for (int key = 0; key < KEYS; key++) {
                writer.writeEvent("key" + key, key + ":" + n);
            }
        }
        writer.flush();
        List<String> seen = readWithBoth(one, two, KEYS * EACH);
        checkOrder(seen);

        Check.equal(Set.of("one", "two"), group.getOnlineReaders(), "readers online");
        Check.equal(Set.of(stream.getScopedName()), group.getStreamNames(), "streams of the group");
        Check.eventually(Cluster.PATIENCE, "both readers hold segments", () -> {
            one.readNextEvent(100);
            two.readNextEvent(100);
            Map<String, Integer> shares =
                    group.getReaderSegmentDistribution().getReaderSegmentDistribution();
            return shares.getOrDefault("one", 0) == 2 && shares.getOrDefault("two", 0) == 2;
        });

        one.close();
        writer.writeEvents("together", List.of("a", "b", "c"));
        writer.writeEvent("without a key").get();
        writer.flush();
        List<String> rest = Cluster.read(two, 4);
        rest.remove("without a key");
        Check.equal(List.of("a", "b", "c"), rest, "events written together");

        pointers(writer, two);
        Check.eventually(Cluster.PATIENCE, "nothing is left to read", () -> {
            two.readNextEvent(100);
            return group.getMetrics().unreadBytes() == 0;
        });
        Check.that(Cluster.readUntilQuiet(two, Duration.ofSeconds(1)).isEmpty(), "no event twice");
    }

    private static List<String> readWithBoth(
            EventStreamReader<String> one, EventStreamReader<String> two, int count) {
        List<String> seen = new ArrayList<>();
        long deadline = System.nanoTime() + Cluster.PATIENCE.toNanos();
        while (seen.size() < count) {
            for (EventStreamReader<String> reader : List.of(one, two)) {
                EventRead<String> next = reader.readNextEvent(20);
                if (next.getEvent() != null) {
                    seen.add(next.getEvent());
                }
            }
            Check.that(System.nanoTime() < deadline, "only " + seen.size() + " of " + count);
        }
        return seen;
    }

    /** Each next event of a key is exactly the next number: none lost, none twice. */
    static void checkOrder(List<String> events) {
        Map<String, Integer> next = new HashMap<>();
        for (String event : events) {
            int colon = event.indexOf(':');
            String key = event.substring(0, colon);
            int number = Integer.parseInt(event.substring(colon + 1));
            Check.equal(next.getOrDefault(key, 0), number, "next event of key " + key);
            next.put(key, number + 1);
        }
    }

    private static void pointers(EventStreamWriter<String> writer, EventStreamReader<String> reader)
            throws Exception {
        writer.writeEvent("key", "to be found again").get();
        EventRead<String> read = reader.readNextEvent(1000);
        while (read.getEvent() == null) {
            read = reader.readNextEvent(1000);
        }
        Check.equal("to be found again",
                reader.fetchEvent(read.getEventPointer()), "the event behind its pointer");
    }
}
