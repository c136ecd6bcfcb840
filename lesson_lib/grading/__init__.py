"""The instructor's grader: a folder of submissions in, fair grades out; nothing that a submission says is trusted."""
