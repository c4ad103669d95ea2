"""The seeded simulation: the whole engine on one virtual machine, with faults, from one number."""
