"""Simulation: the scheduler and the placement of a run, with timers as replicas, in virtual time.

settings    what is simulated
topologies  the topologies: built-in ones, files, and a wide one
cluster     the plan: replicas of each agent on pretended nodes
devices     what computes turns: replicas on one GPU share its time
links       how long transfers take: links, and the network port of each node
times       the timers of turns, and the driver's processor time
results     the results of turns
runtime     the scheduler's Runtime whose clock is a heap of events
figures     the result of one run
run         from settings to figures
table       the figures of one topology as rows of text
plot        the figures over nodes
"""
