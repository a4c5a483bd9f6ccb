"""Who may pass: peers, domains, users."""
