"""How a command can end, and its exit codes."""

USER_ERROR = 2  # the user's mistake: one line on stderr, nothing half-written
DIVERGED = 3  # the loss was not finite and train.on_nonfinite is 'stop'
NOT_READY = 4  # the processes of a run are not all there, or do not agree; nothing has begun
PREEMPTED = 75  # stopped by a signal after a complete save (EX_TEMPFAIL: run me again)


class UserError(Exception):
    """A mistake of the user; its text is one line: what is wrong, where, and what to do."""


class Diverged(Exception):
    """A run whose loss or gradient was not finite; its text is one line."""


class NotReady(Exception):
    """A run whose processes cannot begin together; its text is one line per reason."""
