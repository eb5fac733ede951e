"""ReFilled harness: what trains. `analysis` turns what it leaves behind into tables."""
