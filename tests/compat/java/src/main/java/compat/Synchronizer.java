package compat;

import io.pravega.client.state.InitialUpdate;
import io.pravega.client.state.Revision;
import io.pravega.client.state.Revisioned;
import io.pravega.client.state.StateSynchronizer;
import io.pravega.client.state.SynchronizerConfig;
import io.pravega.client.state.Update;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Future;

/** A state shared by several processes, here three counters that take turns. */
final class Synchronizer implements Program {
    private static final int PARTIES = 3;
    private static final int ROUNDS = 50;

    record Count(String scopedName, Revision revision, int value) implements Revisioned {
        @Override
        public String getScopedStreamName() {
            return scopedName;
        }

        @Override
        public Revision getRevision() {
            return revision;
        }
    }

    record Start(int value) implements InitialUpdate<Count>, Serializable {
        @Override
        public Count create(String scopedName, Revision revision) {
            return new Count(scopedName, revision, value);
        }
    }

    record Add(int value) implements Update<Count>, Serializable {
        @Override
        public Count applyTo(Count before, Revision revision) {
            return new Count(before.scopedName(), revision, before.value() + value);
        }
    }

    @Override
    public void run(Cluster cluster) throws Exception {
        cluster.stream("count", 1);
        ExecutorService executor = java.util.concurrent.Executors.newFixedThreadPool(PARTIES);
        cluster.open((AutoCloseable) executor::shutdownNow);
        List<StateSynchronizer<Count>> parties = new ArrayList<>();
        List<Callable<Void>> work = new ArrayList<>();
        for (int party = 0; party < PARTIES; party++) {
            StateSynchronizer<Count> synchronizer = synchronizer(cluster);
            synchronizer.initialize(new Start(100 * party));
            parties.add(synchronizer);
            work.add(() -> {
                for (int round = 0; round < ROUNDS; round++) {
                    synchronizer.updateState((state, updates) -> {
                        updates.add(new Add(1));
                    });
                }
                return null;
            });
        }
        for (Future<Void> done : executor.invokeAll(work)) {
            done.get();
        }
        for (StateSynchronizer<Count> party : parties) {
            party.fetchUpdates();
            Check.equal(PARTIES * ROUNDS, party.getState().value(), "the first start and all additions");
        }

        StateSynchronizer<Count> first = parties.get(0);
        Check.that(first.bytesWrittenSinceCompaction() > 0, "bytes since the compaction");
        first.compact(state -> new Start(state.value()));
        first.updateStateUnconditionally(new Add(1000));
        first.fetchUpdates();
        Check.equal(PARTIES * ROUNDS + 1000, first.getState().value(), "after the compaction");
        StateSynchronizer<Count> late = synchronizer(cluster);
        late.fetchUpdates();
        Check.equal(PARTIES * ROUNDS + 1000, late.getState().value(), "for one that comes later");
    }

    private static StateSynchronizer<Count> synchronizer(Cluster cluster) {
        return cluster.open(cluster.synchronizers().<Count, Add, Start>createStateSynchronizer(
                "count", cluster.objects(), cluster.objects(), SynchronizerConfig.builder().build()));
    }
}
