package compat;

import io.pravega.client.admin.StreamInfo;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.Stream;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;

/** A sealed stream: what was written stays readable, the end is announced, then it is deleted. */
final class Seal implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("sealed", 1);
        EventStreamWriter<String> writer = cluster.writer(stream);
        ReaderGroup group = cluster.group("group", stream);
        AtomicBoolean ended = new AtomicBoolean();
        group.getEndOfDataNotifier(cluster.executor()).registerListener(news -> ended.set(true));
        for (String event : List.of("a", "b", "c")) {
            writer.writeEvent("key", event).get();
        }
        Check.fails(IllegalArgumentException.class, "deleting an open stream",
                () -> cluster.streams.deleteStream(cluster.scope, "sealed"));
        Check.that(cluster.streams.sealStream(cluster.scope, "sealed"), "sealed");
        Check.that(cluster.streams.sealStream(cluster.scope, "sealed"), "once more is fine");
        StreamInfo info =
                Cluster.within(cluster.streams.fetchStreamInfo(cluster.scope, "sealed"));
        Check.that(info.isSealed(), "the stream is said to be sealed");
        Check.fails(IllegalStateException.class, "writing to it", () -> {
            writer.writeEvent("key", "late").get();
            return null;
        });

        EventStreamReader<String> reader = cluster.reader("reader", group);
        Check.equal(List.of("a", "b", "c"), Cluster.read(reader, 3), "what was written");
        Check.eventually(Cluster.PATIENCE, "the end of the data is announced", () -> {
            reader.readNextEvent(100);
            return ended.get();
        });
        Check.that(cluster.streams.deleteStream(cluster.scope, "sealed"), "deleted");
        Check.that(!cluster.streams.deleteStream(cluster.scope, "sealed"), "it is gone");
        Check.that(!cluster.streams.checkStreamExists(cluster.scope, "sealed"), "it is gone");
    }
}
