"""How the platform is started, configured and shipped."""
