package compat;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.URI;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Runs the programs, all or those named, against a cluster: a line for each, and a count.
 *
 * <p>Usage: {@code Main CONTROLLER REST [NAME…]}, for example
 * {@code Main tcp://127.0.0.1:9090 http://127.0.0.1:10080 events}. The exit status is the number
 * of programs that failed.
 */
public final class Main {
    private static final long PROGRAM_LIMIT_S = Long.getLong("compat.limit_s", 120);

    private static final Map<String, Program> PROGRAMS = new LinkedHashMap<>();

    static {
        PROGRAMS.put("events", new Events());
        PROGRAMS.put("checkpoints", new Checkpoints());
        PROGRAMS.put("tables", new Tables());
        PROGRAMS.put("synchronizer", new Synchronizer());
        PROGRAMS.put("revisions", new Revisions());
        PROGRAMS.put("byte-stream", new ByteStream());
        PROGRAMS.put("batch", new Batch());
        PROGRAMS.put("transactions", new Transactions());
        PROGRAMS.put("large-events", new LargeEvents());
        PROGRAMS.put("scaling", new Scaling());
        PROGRAMS.put("truncation", new Truncation());
        PROGRAMS.put("seal", new Seal());
        PROGRAMS.put("listing", new Listing());
        PROGRAMS.put("reader-groups", new ReaderGroups());
        PROGRAMS.put("delete-scope", new DeleteScope());
        PROGRAMS.put("retention-size", new RetentionBySize());
        PROGRAMS.put("retention-time", new RetentionByTime());
        PROGRAMS.put("retention-consumption", new RetentionByConsumption());
        PROGRAMS.put("watermarks", new Watermarks());
    }

    private Main() {
    }

    public static void main(String[] arguments) {
        // The client asks for these news every two minutes otherwise.
        System.setProperty("pravega.client.segmentNotification.poll.interval.seconds", "1");
        System.setProperty("pravega.client.endOfDataNotification.poll.interval.seconds", "1");
        if (arguments.length < 2) {
            System.err.println("usage: Main CONTROLLER REST [" + String.join(" ", PROGRAMS.keySet())
                    + "]");
            System.exit(2);
        }
        URI controller = URI.create(arguments[0]);
        URI rest = URI.create(arguments[1]);
        List<String> names = new ArrayList<>(List.of(arguments).subList(2, arguments.length));
        if (names.isEmpty()) {
            names.addAll(PROGRAMS.keySet());
        }
        int failed = 0;
        for (String name : names) {
            Program program = PROGRAMS.get(name);
            if (program == null) {
                System.err.println("no program " + name + "; there are " + PROGRAMS.keySet());
                System.exit(2);
            }
            if (!passes(name, program, controller, rest)) {
                failed++;
            }
        }
        System.out.printf("%d passed, %d failed%n", names.size() - failed, failed);
        System.exit(Math.min(failed, 100));
    }

    private static boolean passes(String name, Program program, URI controller, URI rest) {
        ExecutorService thread = Executors.newSingleThreadExecutor(task -> {
            Thread made = new Thread(task, name);
            made.setDaemon(true);
            return made;
        });
        long started = System.nanoTime();
        String scope = name + "-" + Long.toString(System.currentTimeMillis(), Character.MAX_RADIX);
        Future<?> running = thread.submit(() -> {
            try (Cluster cluster = new Cluster(controller, rest, scope)) {
                program.run(cluster);
            }
            return null;
        });
        Throwable failure = null;
        try {
            running.get(PROGRAM_LIMIT_S, TimeUnit.SECONDS);
        } catch (TimeoutException late) {
            failure = new AssertionError("not done within " + PROGRAM_LIMIT_S + " s");
            running.cancel(true);
        } catch (ExecutionException thrown) {
            failure = Check.unwrapped(thrown);
        } catch (InterruptedException stopped) {
            failure = stopped;
        } finally {
            thread.shutdownNow();
        }
        double seconds = (System.nanoTime() - started) / 1e9;
        System.out.printf("%-6s %-22s %5.1f s%n", failure == null ? "ok" : "FAILED", name, seconds);
        if (failure != null) {
            StringWriter trace = new StringWriter();
            failure.printStackTrace(new PrintWriter(trace));
            System.out.println(trace.toString().indent(4));
        }
        System.out.flush();
        return failure == null;
    }
}
