"""The two ways in which a command ends early, and their exit codes."""

USER_ERROR = 2  # the user's mistake: one line on stderr, nothing half-written
PREEMPTED = 75  # stopped by a signal after a complete save (EX_TEMPFAIL: run me again)


class UserError(Exception):
    """A mistake of the user; its text is one line: what is wrong, where, and what to do."""
