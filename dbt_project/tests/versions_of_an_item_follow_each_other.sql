select *
from (
    select
        *,
        lead(valid_from) over (partition by item_id order by version) as next_from,
        row_number() over (partition by item_id order by version) as place
    from {{ ref('dim_items') }}
)
where
    valid_to is distinct from next_from
    or valid_to <= valid_from
    or version <> place
