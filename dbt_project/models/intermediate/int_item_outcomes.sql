-- Every item row of the batches, and every earlier row of the touched items, with its one outcome.
{% set columns %}
    arrival_hour, source, file, row_number, preference, item_id, kind, title, description, categories, creator_id, price,
    published_at, available_from, available_until, attributes, raw
{% endset %}
with in_scope as (
    select {{ columns }}
    from {{ ref('int_items_unioned') }}
    where reason is null
    union all by name
    select {{ columns }}
    from {{ source('lake', 'int_item_history') }}
    where
        outcome <> 'rejected'
        and item_id in (select item_id from {{ ref('int_touched_items') }})
        and arrival_hour not in (select arrival_hour from {{ ref('int_item_batches') }})
),

-- One row a batch describes an item: the preferred one, else the last.
deliveries as (
    select
        *,
        row_number() over (
            partition by item_id, arrival_hour
            order by preference desc, file desc, row_number desc
        ) = 1 as is_last,
        md5(cast(json_array(
            kind, title, description, categories, creator_id, price, published_at, available_from, available_until,
            attributes
        ) as varchar)) as content
    from in_scope
),

-- The same description again is no new version.
changes as (
    select
        *,
        is_last
        and coalesce(content <> lag(content) over (partition by item_id, is_last order by arrival_hour), true)
            as is_change
    from deliveries
),

-- The first holds from its own date on; if that only comes after the next one arrived, it never holds.
dated as (
    select
        *,
        row_number() over (partition by item_id, is_change order by arrival_hour) as place,
        lead(arrival_hour) over (partition by item_id, is_change order by arrival_hour) as next_arrival
    from changes
),

kept as (
    select
        *,
        is_change
        and not coalesce(place = 1 and coalesce(published_at, available_from) >= next_arrival, false) as is_kept
    from dated
)

select
    'items' as landed_table,
    {{ columns }},
    case when is_kept then 'kept' else 'superseded' end as outcome,
    cast(null as varchar) as reason,
    case when is_kept then row_number() over (partition by item_id, is_kept order by arrival_hour) end as version,
    case when is_kept and place = 1 then coalesce(published_at, available_from) else arrival_hour end as declared_from,
    is_kept and place = 1 as is_first
from kept
union all by name
select
    'items' as landed_table,
    {{ columns }},
    'rejected' as outcome,
    reason
from {{ ref('int_items_unioned') }}
where reason is not null
