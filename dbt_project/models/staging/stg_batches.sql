select
    landed_table,
    arrival_hour,
    n_landed,
    fingerprint,
    rules
from {{ source('landed', 'batches') }}
