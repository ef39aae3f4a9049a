"""The subcommands of `alexnet`, one file each: arguments in, text out."""
