package compat;

import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;

/** What a program states about what it saw; a statement that does not hold ends the program. */
final class Check {
    private static final long PAUSE_MS = 50;

    private Check() {
    }

    static void that(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void equal(Object expected, Object actual, String what) {
        if (!Objects.equals(expected, actual)) {
            throw new AssertionError(what + ": expected " + expected + ", saw " + actual);
        }
    }

    /** The exception, of the given kind, that the action ends with; causes are looked through. */
    static <T extends Throwable> T fails(Class<T> kind, String what, Callable<?> action) {
        Throwable seen = null;
        try {
            action.call();
        } catch (Throwable failure) {
            seen = failure;
            for (Throwable each = failure; each != null; each = each.getCause()) {
                if (kind.isInstance(each)) {
                    return kind.cast(each);
                }
            }
        }
        throw new AssertionError(what + ": expected " + kind.getSimpleName() + ", saw " + seen, seen);
    }

    /** Wait for a condition, asking again and again until it holds or the time is up. */
    static void eventually(Duration limit, String what, Callable<Boolean> condition)
            throws Exception {
        long deadline = System.nanoTime() + limit.toNanos();
        while (!condition.call()) {
            if (System.nanoTime() > deadline) {
                throw new AssertionError("not within " + limit.toSeconds() + " s: " + what);
            }
            Thread.sleep(PAUSE_MS);
        }
    }

    /** The failure inside the wrappings of futures. */
    static Throwable unwrapped(Throwable failure) {
        Throwable seen = failure;
        while ((seen instanceof ExecutionException || seen instanceof CompletionException)
                && seen.getCause() != null) {
            seen = seen.getCause();
        }
        return seen;
    }
}
