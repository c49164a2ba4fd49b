{{ config(unique_key=['landed_table', 'arrival_hour'], meta={'rewrites': 'all'}) }}
with batches as (
    select landed_table, arrival_hour, n_landed, fingerprint, rules
    from {{ ref('stg_batches') }}
    where fingerprint is not null
    union all
    select landed_table, arrival_hour, n_landed, fingerprint, rules
    from {{ source('lake', 'int_batches') }}
    where (landed_table, arrival_hour) not in (select (landed_table, arrival_hour) from {{ ref('stg_batches') }})
),

outcomes as (
    select 'events' as landed_table, arrival_hour, outcome from {{ ref('int_event_history') }}
    union all
    select 'items' as landed_table, arrival_hour, outcome from {{ ref('int_item_history') }}
    union all
    select 'users' as landed_table, arrival_hour, outcome from {{ ref('int_user_history') }}
)

select
    batches.landed_table,
    batches.arrival_hour,
    batches.n_landed as landed,
    count(*) filter (where outcomes.outcome = 'interaction') as interactions,
    count(*) filter (where outcomes.outcome = 'text_only') as text_only,
    count(*) filter (where outcomes.outcome = 'duplicate') as duplicates,
    count(*) filter (where outcomes.outcome = 'cancelled') as cancelled,
    count(*) filter (where outcomes.outcome = 'rejected') as rejected,
    count(*) filter (where outcomes.outcome = 'kept') as kept,
    count(*) filter (where outcomes.outcome = 'superseded') as superseded,
    batches.fingerprint,
    batches.rules
from batches
left join outcomes
    on batches.landed_table = outcomes.landed_table and batches.arrival_hour = outcomes.arrival_hour
group by all
