select distinct arrival_hour
from {{ ref('stg_batches') }}
where landed_table = 'items'
