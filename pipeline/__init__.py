"""The offline stage: label CSVs and videos to ledgers and shards.  Never imports mindspore, model or train."""
