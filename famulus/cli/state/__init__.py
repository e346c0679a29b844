"""`faust -A app state`: the state of subscriptions, taken out, put in, verified, made anew."""
