"""Where state is kept: the changelog in Kafka, the store on disk that copies it, how one catches up with the other."""
