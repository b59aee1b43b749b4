package compat;

import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.Stream;
import io.pravega.client.tables.KeyValueTableConfiguration;

/** Deleting a scope with all that is in it. */
final class DeleteScope implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        StreamManager streams = cluster.streams;
        Stream stream = cluster.stream("stream", 3);
        cluster.stream("other", 1);
        cluster.writer(stream).writeEvent("key", "event").get();
        ReaderGroup group = cluster.group("group", stream);
        EventStreamReader<String> reader = cluster.reader("reader", group);
        Cluster.read(reader, 1);
        reader.close();
        group.close();
        cluster.tableManager().createKeyValueTable(cluster.scope, "table",
                KeyValueTableConfiguration.builder().partitionCount(2).primaryKeyLength(4)
                        .secondaryKeyLength(0).build());
        Check.fails(IllegalStateException.class, "deleting a scope that is not empty",
                () -> streams.deleteScope(cluster.scope));
        Check.that(streams.deleteScopeRecursive(cluster.scope), "deleted with all that is in it");
        Check.that(!streams.checkScopeExists(cluster.scope), "the scope is gone");
        Check.that(!streams.deleteScope(cluster.scope), "the scope is gone");
        Check.that(streams.createScope(cluster.scope), "its name can be used again");
        Check.that(!streams.listStreams(cluster.scope).hasNext(), "the new scope is empty");
        Check.that(streams.deleteScope(cluster.scope), "an empty scope is deleted");
    }
}
