"""One file per subcommand: HELP, EXAMPLES, configure(parser) and run(args) -> exit code. Nothing heavy at import."""
