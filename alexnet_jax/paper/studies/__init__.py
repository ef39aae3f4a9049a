"""What `alexnet reproduce` trains and tabulates: one module a study, with `plan` and `tables`."""
