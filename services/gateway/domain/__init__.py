"""What is allowed and what runs next. Knows neither HTTP nor MongoDB."""
