package compat;

import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.stream.ConfigMismatchException;
import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.Position;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.ReaderGroupNotFoundException;
import io.pravega.client.stream.Stream;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/** Life of a reader group: two streams, a reset, a reader declared dead, deletion. */
final class ReaderGroups implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        Stream one = cluster.stream("one", 1);
        Stream two = cluster.stream("two", 1);
        EventStreamWriter<String> toOne = cluster.writer(one);
        EventStreamWriter<String> toTwo = cluster.writer(two);
        ReaderGroupConfig config = Cluster.quickGroup().stream(one).stream(two).build();
        ReaderGroup group = cluster.group("group", config);
        ReaderGroupManager groups = cluster.groups();
        Check.that(groups.createReaderGroup("group", config), "the same configuration once more");
        Check.fails(ConfigMismatchException.class, "another configuration",
                () -> groups.createReaderGroup("group", Cluster.quickGroup().stream(one).build()));

        toOne.writeEvent("key", "1").get();
        toTwo.writeEvent("key", "2").get();
        EventStreamReader<String> reader = cluster.reader("reader", group);
        Check.equal(Set.of("1", "2"), new HashSet<>(Cluster.read(reader, 2)), "of both streams");

        toOne.writeEvent("key", "3").get();
        EventRead<String> third = reader.readNextEvent(1000);
        while (third.getEvent() == null) {
            third = reader.readNextEvent(1000);
        }
        Position after = third.getPosition();
        toOne.writeEvent("key", "4").get();
        group.readerOffline("reader", after);
        Check.equal(Set.of(), group.getOnlineReaders(), "the reader is declared dead");
        reader.close();
        EventStreamReader<String> heir = cluster.reader("heir", group);
        Check.equal(List.of("4"), Cluster.read(heir, 1), "its heir goes on after its position");
        heir.close();

        group.resetReaderGroup(Cluster.quickGroup().stream(two).build());
        EventStreamReader<String> fresh = cluster.reader("fresh", group);
        Check.equal(List.of("2"), Cluster.read(fresh, 1), "after the reset, of one stream");
        Check.equal(Set.of(two.getScopedName()), group.getStreamNames(), "streams of the group");
        fresh.close();

        group.close();
        groups.deleteReaderGroup("group");
        Check.fails(ReaderGroupNotFoundException.class, "a deleted group",
                () -> groups.getReaderGroup("group"));
        Check.that(groups.createReaderGroup("group", config), "its name can be used again");
        Check.equal(3 + 1, Cluster.read(
                cluster.reader("anew", cluster.open(groups.getReaderGroup("group"))), 4).size(),
                "the new group reads from the start");
    }
}
