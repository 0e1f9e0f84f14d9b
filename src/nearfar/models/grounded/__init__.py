"""Language that is grounded in pictures: words and phrases find cells of a map, and relations hold between them."""
