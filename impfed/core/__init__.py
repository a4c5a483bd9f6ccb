"""What every room may use: errors, ids, log events, metrics, limits. Nothing here does IO."""
