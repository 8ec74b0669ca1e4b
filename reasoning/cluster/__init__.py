"""Many machines by Ray (extra "ray"): connect to a cluster, and share out units of work over a pool of actors.

    connect    find or start a cluster
    host       what runs inside an actor
    actors     the pool: start, restart, back off, refuse unlike ones
    dispatch   bounded work in flight, batches by measured speed, deaths survived
    verifier   any verifier, judged by the actors

This package knows of units and workers, not of chains: the engine is in reasoning/engines/ray.py. Ray is imported
when something is opened, never before.

What is sent between driver and actors is pickled by Ray, between processes that this program started and over
connections that Ray authenticates. What a model or a dataset wrote travels in it as strings, and stays that.
"""

from reasoning.cluster.connect import CLUSTER, ClusterSpec, connect, parse_cluster

__all__ = ["CLUSTER", "ClusterSpec", "connect", "parse_cluster"]
