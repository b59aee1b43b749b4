package compat;

import io.pravega.client.state.Revision;
import io.pravega.client.state.RevisionedStreamClient;
import io.pravega.client.state.SynchronizerConfig;
import io.pravega.client.stream.TruncatedDataException;
import java.util.ArrayList;
import java.util.List;

/** A revisioned stream: conditional writes, the mark, truncation. */
final class Revisions implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        cluster.stream("log", 1);
        RevisionedStreamClient<String> one = client(cluster);
        RevisionedStreamClient<String> two = client(cluster);
        Revision start = one.fetchLatestRevision();
        Revision afterA = one.writeConditionally(start, "a");
        Check.that(afterA != null, "nobody was faster");
        Check.that(two.writeConditionally(start, "b") == null, "somebody was faster");
        Revision afterB = two.writeConditionally(afterA, "b");
        one.writeUnconditionally("c");
        Check.equal(List.of("a", "b", "c"), values(one, start), "all entries");
        Check.equal(List.of("b", "c"), values(two, afterA), "entries from a revision on");

        Check.that(one.getMark() == null, "no mark yet");
        Check.that(one.compareAndSetMark(null, afterA), "the first mark");
        Check.that(!two.compareAndSetMark(null, afterB), "a mark is there");
        Check.that(two.compareAndSetMark(afterA, afterB), "the next mark");
        Check.equal(afterB, one.getMark(), "the mark, read by another");

        one.truncateToRevision(afterB);
        Check.equal(afterB, two.fetchOldestRevision(), "the oldest revision");
        Check.equal(List.of("c"), values(two, afterB), "what remains");
        Check.fails(TruncatedDataException.class, "reading what is gone",
                () -> values(client(cluster), start));
    }

    private static List<String> values(RevisionedStreamClient<String> client, Revision from) {
        List<String> values = new ArrayList<>();
        client.readFrom(from).forEachRemaining(entry -> values.add(entry.getValue()));
        return values;
    }

    private static RevisionedStreamClient<String> client(Cluster cluster) {
        return cluster.open(cluster.synchronizers().createRevisionedStreamClient(
                "log", Cluster.TEXT, SynchronizerConfig.builder().build()));
    }
}
