"""Pruning, in the order in which it is read:

channel_graph   which channels can only go together (groups), which layers can be pruned
importance      how much each group matters
selection       from importances to a threshold, and to the groups that stay
surgery         from the groups that stay to a compact net that computes the same
plan            the cut of one command line: ranking, threshold or search, what to say before anything is cut
compact         masked net, compact net, verification, scores
report          tables, files, pictures

Beside them: args (the command line and its options), job (what is pruned, and the means to score it), blocks (whole
residual blocks), sizes (--target-params, --target-flops), latency_search (--target-latency: latency_choices makes a
knapsack of a net, latency solves it, pace says what a whole net takes), analysis (other cuts: trade-off, sensitivity),
int8 and budget (the pruned net in 8 bits, under one limit of mAP), iterative (pruning and fine-tuning in steps), road
(from a dense net to a quantised file), stages (the commands that these two run), prospect and planned (what a net that
is still trained sparse could lose).
"""
