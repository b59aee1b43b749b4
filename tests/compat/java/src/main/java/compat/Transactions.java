package compat;

import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.Transaction;
import io.pravega.client.stream.TransactionInfo;
import io.pravega.client.stream.TransactionalEventStreamWriter;
import io.pravega.client.stream.TxnFailedException;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;

/** Transactions: nothing is seen before the commit, nothing of an aborted one, across a scaling. */
final class Transactions implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("accounts", 2);
        TransactionalEventStreamWriter<String> writer = writer(cluster, "writer");
        ReaderGroup group = cluster.group("group", stream);
        EventStreamReader<String> reader = cluster.reader("reader", group);

        Transaction<String> first = writer.beginTxn();
        Check.equal(Transaction.Status.OPEN, first.checkStatus(), "a new transaction");
        fill(first, "first", 20);
        first.flush();
        Check.that(Cluster.readUntilQuiet(reader, Duration.ofSeconds(1)).isEmpty(),
                "nothing is seen before the commit");
        first.commit(1000L);
        Check.equal(expected("first", 20), new HashSet<>(Cluster.read(reader, 20)), "committed");
        Check.eventually(Cluster.PATIENCE, "the transaction is committed",
                () -> first.checkStatus() == Transaction.Status.COMMITTED);
        Check.fails(TxnFailedException.class, "writing after the commit", () -> {
            first.writeEvent("late");
            return null;
        });

        Transaction<String> aborted = writer.beginTxn();
        fill(aborted, "aborted", 20);
        aborted.abort();
        Check.eventually(Cluster.PATIENCE, "the transaction is aborted",
                () -> aborted.checkStatus() == Transaction.Status.ABORTED);
        Check.fails(TxnFailedException.class, "committing what was aborted", () -> {
            aborted.commit();
            return null;
        });

        Transaction<String> begun = writer.beginTxn();
        begun.writeEvent("half", "resumed 0");
        begun.flush();
        Transaction<String> resumed = writer(cluster, "other").getTxn(begun.getTxnId());
        resumed.writeEvent("half", "resumed 1");
        resumed.commit();
        Check.equal(List.of("resumed 0", "resumed 1"), Cluster.read(reader, 2),
                "one transaction from two writers");

        acrossScaling(cluster, stream, writer, reader);

        Set<UUID> completed = new HashSet<>();
        for (TransactionInfo info : cluster.streams.listCompletedTransactions(stream)) {
            completed.add(info.getTransactionId());
        }
        Check.that(completed.containsAll(Set.of(first.getTxnId(), aborted.getTxnId())),
                "completed transactions are listed");
    }

    private static void acrossScaling(
            Cluster cluster,
            Stream stream,
            TransactionalEventStreamWriter<String> writer,
            EventStreamReader<String> reader) throws Exception {
        Transaction<String> before = writer.beginTxn();
        fill(before, "before", 20);
        cluster.scale(cluster.controller(), stream, List.of(0L, 1L),
                Map.of(0.0, 0.3, 0.3, 0.6, 0.6, 1.0));
        Transaction<String> after = writer.beginTxn();
        fill(after, "after", 20);
        after.commit();
        before.commit();
        Set<String> both = expected("before", 20);
        both.addAll(expected("after", 20));
        Check.equal(both, new HashSet<>(Cluster.read(reader, 40)), "a scaling came between");
        Check.that(Cluster.readUntilQuiet(reader, Duration.ofSeconds(1)).isEmpty(), "nothing twice");
    }

    private static void fill(Transaction<String> transaction, String name, int count)
            throws TxnFailedException {
        for (int number = 0; number < count; number++) {
            transaction.writeEvent("key" + number, name + " " + number);
        }
    }

    private static Set<String> expected(String name, int count) {
        Set<String> events = new HashSet<>();
        for (int number = 0; number < count; number++) {
            events.add(name + " " + number);
        }
        return events;
    }

    private static TransactionalEventStreamWriter<String> writer(Cluster cluster, String name) {
        return cluster.open(cluster.events().createTransactionalEventWriter(name, "accounts",
                Cluster.TEXT, EventWriterConfig.builder().transactionTimeoutTime(20_000).build()));
    }
}
