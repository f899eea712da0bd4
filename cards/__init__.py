"""Card templates."""
