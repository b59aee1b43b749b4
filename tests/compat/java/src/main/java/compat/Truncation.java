package compat;

import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import io.pravega.client.stream.TruncatedDataException;
import java.util.ArrayList;
import java.util.List;

/** Truncation at a cut, for readers that are before it and for those that come later. */
final class Truncation implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("cut", 1);
        EventStreamWriter<String> writer = cluster.writer(stream);
        ReaderGroup behind = cluster.group("behind", stream);
        StreamCut start = cluster.head(stream);
        write(writer, "old", 10);
        StreamCut cut = cluster.tail(stream);
        write(writer, "new", 10);
        Check.that(cluster.streams.truncateStream(cluster.scope, "cut", cut), "truncated");
        Check.equal(cut, cluster.head(stream), "the head is the cut");
        Check.that(cluster.streams.truncateStream(cluster.scope, "cut", cut), "once more is fine");

        EventStreamReader<String> reader = cluster.reader("behind", behind);
        Check.fails(TruncatedDataException.class, "a reader before the cut", () -> {
            for (int attempt = 0; attempt < 20; attempt++) {
                Check.that(reader.readNextEvent(500).getEvent() == null, "nothing before the cut");
            }
            return null;
        });
        Check.equal(expected("new", 10), Cluster.read(reader, 10), "it goes on at the cut");
        Check.equal(expected("new", 10),
                Cluster.read(cluster.reader("later", cluster.group("later", stream)), 10),
                "a new group begins at the cut");
        Check.fails(RuntimeException.class, "truncating before the head",
                () -> cluster.streams.truncateStream(cluster.scope, "cut", start));
    }

    private static void write(EventStreamWriter<String> writer, String name, int count) {
        expected(name, count).forEach(event -> writer.writeEvent("key", event));
        writer.flush();
    }

    private static List<String> expected(String name, int count) {
        List<String> events = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            events.add(name + number);
        }
        return events;
    }
}
