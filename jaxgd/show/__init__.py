"""What a person sees: tables and figures. These rooms read results and compute no descent."""
