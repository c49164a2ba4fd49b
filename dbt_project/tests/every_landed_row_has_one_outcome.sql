-- What the reader counted, against the sum of the outcomes.
select *
from {{ ref('audit_batches') }}
where landed <> interactions + text_only + duplicates + cancelled + rejected + kept + superseded
