"""Evaluation: a protocol (what is drawn, seen by which network, compared with what) and the reports that follow from it."""
