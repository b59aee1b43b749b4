package compat;

/** One feature of the official client, tried against a running cluster. */
@FunctionalInterface
interface Program {
    /** Ends normally when everything was as it should be. The scope of the cluster is empty. */
    void run(Cluster cluster) throws Exception;
}
