"""The control plane: streams, scopes, scaling, transactions, event-sourced on JetStream."""
