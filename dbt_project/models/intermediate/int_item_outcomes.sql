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

dated as (
    select
        *,
        coalesce(published_at, available_from) as own_date,
        row_number() over (partition by item_id, is_change order by arrival_hour) as place,
        lead(arrival_hour) over (partition by item_id, is_change order by arrival_hour) as next_arrival
    from changes
),

-- The first holds from its own date on. If that only comes after the next one arrived it never holds, and the next one,
-- whose date may lie ahead as well, is the first.
kept as (
    select
        *,
        is_change and not bool_and(coalesce(own_date >= next_arrival, false)) over (
            partition by item_id, is_change
            order by arrival_hour
        ) as is_kept
    from dated
),

numbered as (
    select
        *,
        case when is_kept then row_number() over (partition by item_id, is_kept order by arrival_hour) end as version
    from kept
)

select
    'items' as landed_table,
    {{ columns }},
    case when is_kept then 'kept' else 'superseded' end as outcome,
    cast(null as varchar) as reason,
    version,
    case
        when version = 1 and place = 1 then own_date
        when version = 1 then greatest(arrival_hour, own_date)
        else arrival_hour
    end as declared_from,
    coalesce(version = 1, false) as is_first
from numbered
union all by name
select
    'items' as landed_table,
    {{ columns }},
    'rejected' as outcome,
    reason
from {{ ref('int_items_unioned') }}
where reason is not null
